"Everything a notebook needs: `from rsna_ich.all import *`"
from fastai.vision.all import *
from rsna_ich.core import *
from rsna_ich.dicom import *
from rsna_ich.report import *
from rsna_ich.vision import *
from rsna_ich.data import *
from rsna_ich.learn import *
from rsna_ich.answer import *
from rsna_ich.eda import *
from rsna_ich.phantom import *
from rsna_ich.starter import *
