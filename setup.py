from setuptools import setup

setup()  # everything stands in setup.cfg; pip asks for this file
