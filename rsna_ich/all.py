"Everything a notebook needs: `from rsna_ich.all import *`"
from fastai.vision.all import *
from rsna_ich.core import *
from rsna_ich.archive import *
from rsna_ich.dicom import *
from rsna_ich.headers import *
from rsna_ich.labels import *
from rsna_ich.phantom import *
from rsna_ich.pixels import *
from rsna_ich.windows import *
from rsna_ich.store import *
from rsna_ich.data import *
from rsna_ich.metrics import *
from rsna_ich.learner import *
from rsna_ich.infer import *
from rsna_ich.evaluate import *
from rsna_ich.demo import *
