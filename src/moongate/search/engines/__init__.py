"""Who can be asked to search the web; one file each, and the table that names them."""
