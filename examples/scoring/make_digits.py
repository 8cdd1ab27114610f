"""Write a small model, and pictures of digits for it: `make_digits.py MODEL PICTURES [TIMES]`."""

import json
import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

if __name__ == "__main__":
    digits, times = load_digits(), int(sys.argv[3] if len(sys.argv) > 3 else 5)
    joblib.dump(RandomForestClassifier(100, random_state=1).fit(digits.data, digits.target), sys.argv[1])
    pictures = enumerate(digits.data.astype(int).tolist() * times)
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"picture": number, "shades": shades}) + "\n" for number, shades in pictures)
