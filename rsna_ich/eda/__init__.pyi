# What a user types of this wing. The names are loaded when they are first asked for.
from .labels import labels_section as labels_section
from .headers import headers_section as headers_section
from .pixels import pixels_section as pixels_section
from .images import images_section as images_section
from .steps import steps_section as steps_section
from .splits import split_section as split_section
from .report import eda as eda, eda_sections as eda_sections
