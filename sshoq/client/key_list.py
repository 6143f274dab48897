"""-Z: the public keys that a login would try, in the order in which it would, and no login."""

from collections.abc import Iterator

from sshoq.auth.keys import PublicKey
from sshoq.auth.private_keys import KeyFileError, load_private_key
from sshoq.client.identities import Candidate, gather_keys, is_usable, login_wishes
from sshoq.client.log import Log, printable
from sshoq.config.options import Options


def public_keys(options: Options, log: Log) -> Iterator[str]:
    """Lines as authorized_keys has them."""
    login = login_wishes(options)
    if "publickey" not in login.methods:
        return
    for candidate in gather_keys(login, log):
        public = candidate.public or _public_half(candidate, log)
        known = candidate._replace(public=public)
        if public is not None and is_usable(known, login, log):
            # Whoever wrote the comment does not get at the terminal, nor makes two lines of one.
            yield " ".join(printable(public.line).split())


def _public_half(candidate: Candidate, log: Log) -> PublicKey | None:
    """Of a file that has to be loaded to be known. Nobody is asked for a passphrase."""
    try:
        return load_private_key(candidate.name).public_key
    except KeyFileError as error:
        log.debug(str(error))
        return None
