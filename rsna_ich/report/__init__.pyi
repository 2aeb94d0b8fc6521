# What a user types of this wing. The names are loaded when they are first asked for.
from .plots import plot_bars as plot_bars, plot_heat as plot_heat
from .page import html_page as html_page, html_table as html_table, figure_svg as figure_svg, ReportFinding as ReportFinding, ReportSection as ReportSection
from .gallery import gallery_table as gallery_table, choose_slices as choose_slices, pick_by_label as pick_by_label, gallery_pictures as gallery_pictures, plot_pictures as plot_pictures
from .viewer import slice_viewer as slice_viewer
