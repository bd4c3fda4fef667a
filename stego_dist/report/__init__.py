"""Results for people: a table in the terminal, pictures, one self-contained HTML file."""
