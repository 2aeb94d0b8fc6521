"Head-CT studies made up by code, and bleeds painted into real ones"
import lazy_loader

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
