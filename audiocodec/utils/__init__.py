"""Ground floor: configuration, checkpoints, worker processes, small tools. Imports nothing else of
audiocodec.
"""
