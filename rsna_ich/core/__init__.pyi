# What a user types of this wing. The names are loaded when they are first asked for.
from .errors import RsnaIchError as RsnaIchError, DicomError as DicomError, LabelError as LabelError, DataError as DataError, ModelError as ModelError
from .labels import LABELS as LABELS, SUBTYPES as SUBTYPES
from .windows import ct_windows as ct_windows, get_window as get_window
from .messages import RESEARCH_ONLY as RESEARCH_ONLY
from .state import free_state as free_state, kept_state as kept_state
