"""Find the objects in images: `python predict.py [IMAGE|FOLDER ...] [--checkpoint FILE] [--out FOLDER]`.

Without arguments the shipped checkpoint is applied to the shipped scenes.
"""

from object_discovery.predict import main

if __name__ == "__main__":
    main()
