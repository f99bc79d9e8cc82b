"""URLs → bytes: the download engines and the rules that all of them follow."""
