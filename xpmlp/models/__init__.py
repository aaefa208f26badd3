"""A trained network: loaded, saved, asked, scored and drawn."""
