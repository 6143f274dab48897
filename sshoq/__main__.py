"""`python -m sshoq` is the client, for machines where the script is not on the path."""

import sys

from sshoq.client.main import main

if __name__ == "__main__":
    sys.exit(main())
