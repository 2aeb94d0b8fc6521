"Mutate good DICOM files, read them, and see what came of it: `python -m tests.fuzz --help`"
