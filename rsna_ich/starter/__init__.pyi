# What a user types of this wing. The names are loaded when they are first asked for.
from .making import train_starter as train_starter
from .demo import run_demo as run_demo
