"What a model is trained on: labels, tables, splits, a store, loaders"
import lazy_loader

__getattr__,__dir__,__all__ = lazy_loader.attach_stub(__name__, __file__)
