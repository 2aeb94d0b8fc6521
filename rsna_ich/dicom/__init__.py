"One DICOM file or many: Hounsfield units, header tables, series in order"
import lazy_loader
from .fastai_names import beside_fastai as _beside_fastai

_beside_fastai() # before a module of this package patches anything

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
