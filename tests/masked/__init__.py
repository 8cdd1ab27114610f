"""What a system without Linux's own facilities is to the tests: see `sitecustomize` beside this."""
