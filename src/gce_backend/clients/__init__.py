"""One module for each service that is called, raising only `base.errors`.

What may live here: requests, and answers as typed values or as one of the project's errors;
whatever a service answers is mapped here. What may not: policy, entities of the fleet, decisions.
"""
