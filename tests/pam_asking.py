"""A PAM module that asks what a test tells it to, since Debian's own ask for nothing but passwords.

Its arguments stand in the service file, so that sshd and sshoq-server meet the very same module.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.needs import need_tools

SOURCE = r"""
#include <stdlib.h>
#include <string.h>

/* Linux-PAM's interface, as far as it is needed: its headers need not be installed. */
struct pam_message { int style; const char *text; };
struct pam_response { char *text; int code; };
struct pam_conv {
    int (*converse)(int, const struct pam_message **, struct pam_response **, void *);
    void *data;
};
enum { SUCCESS = 0, AUTH_ERR = 7, CONV = 5, MOST = 32 };
extern int pam_get_item(const void *handle, int item, const void **value);

static int style_of(const char *word)
{
    static const char *const styles[] = {"secret", "visible", "error", "info"};
    for (int style = 0; style < 4; style++)
        if (strcmp(word, styles[style]) == 0)
            return style + 1;
    return 0;
}

/* Arguments are STYLE|TEXT|RIGHT ANSWER, or "fail". All of them go in one call. */
static int ask(void *handle, int count, const char **words)
{
    struct pam_message messages[MOST];
    const struct pam_message *list[MOST];
    const char *right[MOST];
    struct pam_response *answers = NULL;
    const struct pam_conv *conversation = NULL;
    int asked = 0, result = SUCCESS;

    for (int at = 0; at < count && at < MOST; at++) {
        char *style = strdup(words[at]), *text = strchr(style, '|'), *answer;
        if (text == NULL) {
            result = AUTH_ERR;
            continue;
        }
        *text++ = 0;
        answer = strchr(text, '|');
        if (answer != NULL)
            *answer++ = 0;
        messages[asked].style = style_of(style);
        messages[asked].text = text;
        list[asked] = &messages[asked];
        right[asked++] = answer;
    }
    if (pam_get_item(handle, CONV, (const void **) &conversation) != SUCCESS)
        return AUTH_ERR;
    if (asked > 0) {
        int said = conversation->converse(asked, list, &answers, conversation->data);
        if (said != SUCCESS)
            return said;
    }
    for (int at = 0; at < asked; at++)
        if (right[at] != NULL
            && (answers[at].text == NULL || strcmp(answers[at].text, right[at]) != 0))
            result = AUTH_ERR;
    return result;
}

int pam_sm_authenticate(void *handle, int flags, int count, const char **words)
{
    return ask(handle, count, words);
}

int pam_sm_setcred(void *handle, int flags, int count, const char **words)
{
    return SUCCESS;
}

int pam_sm_acct_mgmt(void *handle, int flags, int count, const char **words)
{
    return ask(handle, count, words);
}
"""

OTHER_STEPS = """\
account    required   pam_unix.so
password   required   pam_unix.so
session    required   pam_unix.so
"""


def build_module(directory: Path) -> Path:
    """The module's file. The test is skipped where there is no compiler."""
    need_tools("gcc")
    source, module = directory / "pam_asking.c", directory / "pam_asking.so"
    source.write_text(SOURCE)
    words = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(module), str(source), "-l:libpam.so.0"]
    subprocess.run(words, check=True, timeout=60)
    return module


def asking(module: Path, *questions: str, kind: str = "auth", control: str = "required") -> str:
    """A line of a service file. In brackets, where blanks are allowed."""
    words = " ".join(f"[{question}]" for question in questions)
    return f"{kind} {control} {module} {words}\n"
