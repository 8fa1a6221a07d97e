"""Other libraries' ways of calling: a module for each, imported only when asked for."""
