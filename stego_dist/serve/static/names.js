// Classes from the names and colours of clusters: [{name, colour}] by cluster, as the server sends them.

export function classesOf(clusters) {
  const classes = new Map();
  clusters.forEach(({ name, colour }, cluster) => {
    if (!classes.has(name)) classes.set(name, { name, colour, clusters: [] });
    classes.get(name).clusters.push(cluster);
  });
  return [...classes.values()];
}

export function listed(clusters) {
  return clusters.length === 1 ? `cluster ${clusters[0]}` : `clusters ${clusters.join(", ")}`;
}

// The clusters as they would be: what the server does with an edit, for looking at it before it is saved.
export function edited(clusters, chosen, name, colour) {
  return clusters.map((entry, cluster) => (
    chosen.includes(cluster) || entry.name === name ? { name, colour } : entry
  ));
}
