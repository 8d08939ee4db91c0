"""Write the golden losses anew; say in the commit why they changed."""

from tests.golden import write

write()
