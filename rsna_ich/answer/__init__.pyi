# What a user types of this wing. The names are loaded when they are first asked for.
from .inference import predict as predict, Prediction as Prediction, changed_since as changed_since
from .explain import heat_maps as heat_maps, plot_heat_map as plot_heat_map, pointing_game as pointing_game, pointing_table as pointing_table
from .figures import plot_roc as plot_roc, plot_pr as plot_pr, plot_reliability as plot_reliability
from .evaluation import score_predictions as score_predictions, metrics_with_intervals as metrics_with_intervals, study_answers as study_answers
from .evaluation_report import evaluate as evaluate
from .recalibration import calibrate_ensemble as calibrate_ensemble
