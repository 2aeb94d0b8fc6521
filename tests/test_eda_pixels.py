"Findings about pixels against counting by hand, and on the real slices"
import json
from collections import defaultdict
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from rsna_ich.core.errors import DataError
from rsna_ich.core.labels import LABELS
from rsna_ich.dicom.scanning import scan
from rsna_ich.data.label_files import read_labels
from rsna_ich.data.stats import pixel_stats, slice_stats
from rsna_ich.eda.pixels import NOISE_ROUGHNESS, brain_table, labelled_pixels, odd_pictures, pixels_section, same_pictures

def made_up(rows):
    "A table of (hash, patient, any, brain)"
    h,p,y,b = zip(*rows)
    df = pd.DataFrame(dict(sop=[f's{i}' for i in range(len(rows))], patient=p, bits_stored=16, pixel_representation=1, intercept=-1024., hu_min=-1000, hu_max=900,
        hu_mean=-500., hu_sd=400., brain=b, roughness=.02, hu_hash=pd.array(h, 'string')))
    return df.assign(**{l:np.array(y, np.float32) for l in LABELS})

shares = st.sampled_from([0, .02, .0201, .05, .1, .2, .3, .31, 1])
rows = st.lists(st.tuples(st.sampled_from('abcd'), st.sampled_from('pqr'), st.sampled_from([0, 1, np.nan]), shares), min_size=1, max_size=12)

@settings(max_examples=150, deadline=None)
@given(rows)
def test_counts_by_hand(rows):
    df,groups = labelled_pixels(made_up(rows)),defaultdict(list)
    for r in rows: groups[r[0]].append(r)
    same = same_pictures(df).set_index('hu_hash')
    assert set(same.index) == {h for h,g in groups.items() if len(g) > 1}
    for h,o in same.iterrows():
        g = groups[h]
        assert (o.slices, o.patients, o.conflicts != '') == (len(g), len({r[1] for r in g}), {0, 1} <= {r[2] for r in g if r[2] == r[2]})
        assert o.sops.split() == [f's{i}' for i,r in enumerate(rows) if r[0] == h]
    t = brain_table(df)
    for i,(lo,hi) in enumerate(zip((-1, .02, .05, .1, .2, .3), (.02, .05, .1, .2, .3, 2))):
        g = [r for r in rows if lo < r[3] <= hi]
        assert tuple(t.loc[i, ['slices', 'labelled', 'positive']]) == (len(g), sum(r[2] == r[2] for r in g), sum(r[2] == 1 for r in g))
    n = pixels_section(made_up(rows)).numbers
    assert n['across_patients'] == (same.patients > 1).sum() and n['conflicting'] == (same.conflicts != '').sum()

def test_noise_is_found_and_heads_are_not(heads):
    df = pixel_stats(scan(heads/'dicom'))
    assert not len(odd_pictures(df))
    rng = np.random.default_rng(0)
    for sd in (3, 300, 9000): assert slice_stats(rng.normal(0, sd, (64, 64)).clip(-2**15, 2**15-1).astype(np.int16)).roughness > 2*NOISE_ROUGHNESS

def test_unreadable_slices_are_counted_and_left_out(heads):
    df = pixel_stats(scan(heads/'dicom'))
    df.loc[:2, 'hu_hash'] = pd.NA
    assert pixels_section(df).numbers['unreadable'] == 3
    with pytest.raises(DataError, match='none of the'): pixels_section(df[:3])

def test_real_slices(real):
    df,labels = pixel_stats(scan(real/'dicom')),read_labels(real/'labels.csv')
    s = pixels_section(df, labels)
    assert s.numbers['slices'] == 333 and json.loads(json.dumps(s.numbers)) == s.numbers
    assert sum(o['labelled'] for o in s.numbers['brain']) == 264 and sum(o['positive'] for o in s.numbers['brain']) == 53
    assert (s.numbers['constant'], s.numbers['noise'], s.numbers['same']) == (0, 0, 0) and df.roughness.max() < NOISE_ROUGHNESS/10
