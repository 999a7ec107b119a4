"""The paper in plain torch: steps, attention, scores, ranking of heads, credit. Of ours it imports `errors` alone."""
