"""The stages: a file here declares one, ``STAGE``, and says how it is done and what decides its result.

Commands that only look load all of these files, so what does the work is imported inside the functions.
"""
