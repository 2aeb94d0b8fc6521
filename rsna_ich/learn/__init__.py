"How a model is trained, measured, calibrated, kept and joined with others"
import lazy_loader

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
