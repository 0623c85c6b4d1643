"""`erasediff bench`: a scrub's iterations timed, taken apart and compared, on random weights and samples."""
