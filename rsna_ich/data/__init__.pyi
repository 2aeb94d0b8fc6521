# What a user types of this wing. The names are loaded when they are first asked for.
from .label_files import read_labels as read_labels, write_labels as write_labels, to_long as to_long
from .submission import write_submission as write_submission, save_predictions as save_predictions, load_predictions as load_predictions
from .stats import pixel_stats as pixel_stats, hu_hash as hu_hash
from .tables import slice_table as slice_table, with_brain as with_brain, sample_negatives as sample_negatives
from .splits import patient_folds as patient_folds, PatientSplitter as PatientSplitter, SavedSplitter as SavedSplitter, fold_table as fold_table, check_folds as check_folds, save_folds as save_folds, load_folds as load_folds
from .store import Store as Store, prepare as prepare, verify as verify
from .blocks import LabelBlock as LabelBlock, get_file as get_file, get_labels as get_labels
from .loaders import CTBlock as CTBlock, balanced_weights as balanced_weights, ICHDataLoaders as ICHDataLoaders
