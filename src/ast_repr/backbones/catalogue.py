# TEMPORARY, to be replaced by its owner
