"""Plan on the belief: a car, its covariance rolled out, and bounds on what may go wrong."""

from bayes_vio.planning.belief import Belief, Growth
from bayes_vio.planning.candidates import Lattice
from bayes_vio.planning.occupancy import Occupancy
from bayes_vio.planning.planner import Decision, Plan, Planner, PlannerSettings
from bayes_vio.planning.route import Route
from bayes_vio.planning.vehicle import Vehicle
from bayes_vio.planning.world import World

__all__ = [
    "Belief",
    "Decision",
    "Growth",
    "Lattice",
    "Occupancy",
    "Plan",
    "Planner",
    "PlannerSettings",
    "Route",
    "Vehicle",
    "World",
]
