# What a user types of this wing. The names are loaded when they are first asked for.
from .metrics import WeightedLogLoss as WeightedLogLoss, weighted_log_loss as weighted_log_loss, prevalence_log_loss as prevalence_log_loss, auc as auc, average_precision as average_precision, label_metrics as label_metrics, ich_metrics as ich_metrics, summarise as summarise
from .calibration import calibration_error as calibration_error, brier_score as brier_score, fit_calibration as fit_calibration, operating_points as operating_points
from .prior import correct_prior as correct_prior
from .intervals import bootstrap_intervals as bootstrap_intervals
from .callbacks import TrainingLog as TrainingLog, plot_training as plot_training
from .learner import ICHLearner as ICHLearner, ich_learner as ich_learner
from .saving import load_model as load_model
from .training import train_model as train_model
from .recipes import RECIPES as RECIPES, get_recipe as get_recipe, recipe_table as recipe_table, paper_run as paper_run
from .context import load_detector as load_detector
from .ensembles import load_detectors as load_detectors
from .folds import train_folds as train_folds, train_bodies as train_bodies
