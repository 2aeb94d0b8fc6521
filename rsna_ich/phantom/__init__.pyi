# What a user types of this wing. The names are loaded when they are first asked for.
from .studies import Phantom as Phantom, phantom_study as phantom_study, phantom_montage as phantom_montage
from .files import write_dicom as write_dicom, write_phantom as write_phantom
from .headers_like import write_headers_like as write_headers_like
from .painted import paint_bleeds as paint_bleeds
