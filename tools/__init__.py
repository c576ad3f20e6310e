"""What maintainers run in a checkout: it makes the package's own tables and the pictures and tables of its docs."""
