"""Of a project with one application and a database in the folder that it lies in."""

from __future__ import annotations

import json
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "of a test"
INSTALLED_APPS = ["shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "shop.sqlite3",
        "CONN_MAX_AGE": None,  # Django itself would keep the connection
        "OPTIONS": {"timeout": 30},  # as long as another process writes
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# what the test asks for: CELERY_BROKER_URL, CELERY_WORKER_POOL ...
for name, value in json.loads(os.environ.get("CELERY_TEST_CONF", "{}")).items():
    globals()[f"CELERY_{name.upper()}"] = value
