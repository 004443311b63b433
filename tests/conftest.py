"""What every test relies on: no model hub is asked, and tokenizers start no threads of their own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
