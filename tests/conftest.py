"""For all tests and the commands that they start: nobody waits for the machine to be calm."""

import os

from bench import admission

os.environ[admission.VARIABLE] = "1"
