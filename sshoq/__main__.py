"""`python -m sshoq` is the client, for machines where the script is not on the path."""

from sshoq.client.main import main

if __name__ == "__main__":
    main()
