# What a user types of this wing. The names are loaded when they are first asked for.
from .archive import is_archive as is_archive
from .files import is_dicom as is_dicom, get_dicom_files as get_dicom_files
from .elements import read_header as read_header
from .hounsfield import to_hu as to_hu, window_hu as window_hu
from .checks import FLAGS as FLAGS
from .stored import stored_pixels as stored_pixels
from .door import read_dicom as read_dicom, read_hu as read_hu, upright_hu as upright_hu
from .display import show_hu as show_hu
from .header_rows import HEADER_COLS as HEADER_COLS
from .header_files import load_headers as load_headers, save_headers as save_headers, file_paths as file_paths
from .folders import in_folder as in_folder, top_folders as top_folders
from .scanning import scan as scan, scan_to as scan_to, header_table as header_table
from .privacy import deidentify as deidentify
from .studies import study_table as study_table
from .series import in_slice_order as in_slice_order, neighbour_rows as neighbour_rows
from .batch_hu import read_slice as read_slice
from .reader import SliceReader as SliceReader
