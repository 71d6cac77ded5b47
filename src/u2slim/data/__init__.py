import os

# Albumentations asks the network for a newer version of itself when it is imported.
# upstream: https://github.com/albumentations-team/albumentations/issues/1775 (closed with this switch);
# drop with albumentations: https://github.com/albumentations-team/AlbumentationsX/issues/135 says it asks no more
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
