# What a user types of this wing. The names are loaded when they are first asked for.
from .hu import ClipHU as ClipHU
from .windowing import Window as Window, RandomWindow as RandomWindow, HistScale as HistScale, freqhist_bins as freqhist_bins
from .crop import CropHead as CropHead, FitSquare as FitSquare
from .augment import Augment as Augment
from .chain import CTTransform as CTTransform
