"The small inputs of `../shared/cases`, where they are: each as it lies there (their kinds are made by code in test_odd_files and test_hospital)"
import os
from pathlib import Path
import numpy as np, pandas as pd, pytest
from rsna_ich.core.errors import DicomError, LabelError
from rsna_ich.dicom.door import read_dicom, read_hu
from rsna_ich.dicom.scanning import scan
from rsna_ich.dicom.series import in_slice_order
from rsna_ich.data.label_files import read_labels
from rsna_ich.answer.inference import predict
from rsna_ich.eda.headers import headers_section
from rsna_ich.phantom.files import write_phantom

CASES = Path(os.environ.get('RSNA_ICH_CASES', Path(__file__).resolve().parents[2]/'shared'/'cases'))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f'no {CASES.name} beside the project')
FLAGS_OF = dict(alloc32_signed=[], bare_implicit=['bare'], duplicate_identical_modality=['repeated'], j2k_unsigned_stream_s16=['codec_sign'], jp2box_s16=['jp2'],
    nodelim_s16=['no_end'], nonsquare_pixels_64x128=['aspect'], pixeldata_2_bytes_more=['padded'], preamble_no_meta_implicit=['bare'], rle_two_fragments=['pieces'],
    sq_defined_with_delimiter_inside=['delimiter'], stray_sequence_delimiter_toplevel=['delimiter'], ts_explicit_data_implicit=['syntax'], un_undefined_length_explicit_inside=['items'])

def _only(name): return next((CASES/name).glob('*.dcm'))

@pytest.mark.parametrize('name', FLAGS_OF)
def test_hu_and_flags(name):
    assert np.abs(read_hu(_only(name)) - np.load(CASES/name/'HU.npy')).max() <= .5
    assert read_dicom(_only(name)).flags == FLAGS_OF[name]

def test_float_pixel_data():
    with pytest.raises(DicomError, match='floating-point numbers'): read_dicom(_only('float_pixel_data'))

def test_enhanced_ct():
    df = scan(CASES/'enhanced_ct_4frames', modality='CT')
    assert df.frame.dropna().tolist() == [0, 1, 2, 3] and df[df.frame.notna()].error.isna().all()
    assert [read_hu(_only('enhanced_ct_4frames'), frame=k).shape for k in range(4)]

def test_blank_slice_in_a_zip(): assert scan(CASES/'blank_slice_in_zip'/'blank1024.zip').error.isna().all()

def test_no_position():
    df = in_slice_order(scan(CASES/'no_position_but_instance_numbers').query('error.isna()'))
    assert df.path.tolist() == [f'{i}.dcm' for i in range(1, 13)]

def test_series_cases():
    clean,turned,two = (predict(scan(CASES/o)) for o in ('localizer_in_series', 'rows_reversed', 'two_recons_one_series'))
    local = clean[clean.kind == 'localizer'].iloc[0]
    assert pd.isna(local['any']) and 'localizer' in local['flags']
    slices = clean[clean['any'].notna()].set_index('path')
    np.testing.assert_allclose(turned.set_index('path').loc[slices.index, 'any'].astype(float), slices['any'], atol=1e-5)
    assert two.groupby(two.path.str[0])['pass'].nunique().loc[['A', 'B']].tolist() == [1, 1] and two['pass'].nunique() == 2

def test_matrix_256():
    df = scan(CASES/'matrix_256').query('error.isna()')
    assert not any('field of view' in o.text.lower() for o in headers_section(df.reset_index(drop=True)).findings)

def test_a_label_that_contradicts_itself():
    with pytest.raises(LabelError, match='any is 0 although a subtype is 1'): read_labels(CASES/'label_any_zero_subtype_one'/'any0_sub1.csv')

def test_a_head_of_256_pixels_is_no_oddity(tmp_path):
    write_phantom(tmp_path, studies=1, size=256, seed=1)
    df = scan(tmp_path/'dicom').assign(spacing_x=1.05, spacing_y=1.05)
    assert not any('field of view' in o.text.lower() for o in headers_section(df).findings)
    assert any('field of view' in o.text.lower() for o in headers_section(df.assign(spacing_x=.3, spacing_y=.3)).findings)
