"""`python -m tests.models.resolver`: resolve a model; stdin is JSON with an `entry` and `args`.

Prints progress lines, then the model that would be served.
"""

import json
import sys
from functools import partial

from serve_app.models.catalogue import CATALOGUE, CatalogueModel, DataFile, Member
from serve_app.models.resolve import resolve_models
from serve_app.settings import AppSettings

if __name__ == "__main__":
    given = json.load(sys.stdin)
    files = tuple(
        DataFile(**file | {"parts": tuple(Member(**part) for part in file["parts"])})
        for file in given["entry"].pop("files")
    )
    model = CatalogueModel(files=files, **given["entry"])
    CATALOGUE[model.name] = model
    settings = AppSettings.model_validate(given["args"])
    print(f"serves {resolve_models(settings, partial(print, flush=True)).model}")
