"What is done to a batch of Hounsfield units before a network sees it"
import lazy_loader

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
