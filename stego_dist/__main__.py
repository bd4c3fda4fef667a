"""`python -m stego_dist VERB …`, also what `accelerate launch -m stego_dist train …` runs."""

from stego_dist.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
