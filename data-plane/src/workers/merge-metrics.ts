/**
 * One exposition (Prometheus text format 0.0.4) of several: samples of the same family stand together, under the help
 * and type of the first that has it. Does NOT tell samples apart: their labels must.
 */
export function mergeMetrics(texts: readonly string[]): string {
  const families = new Map<string, { readonly head: string[]; readonly samples: string[] }>();
  for (const text of texts) {
    let family: { readonly head: string[]; readonly samples: string[] } | undefined;
    let isNew = false;
    for (const line of text.split('\n')) {
      const name = /^# (?:HELP|TYPE) (\S+)/.exec(line)?.[1];
      if (name !== undefined) {
        isNew = line.startsWith('# HELP') ? !families.has(name) : isNew;
        family = families.get(name) ?? { head: [], samples: [] };
        families.set(name, family);
        if (isNew) family.head.push(line);
      } else if (line !== '' && !line.startsWith('#')) {
        family?.samples.push(line);
      }
    }
  }
  return [...families.values()].map(({ head, samples }) => `${[...head, ...samples].join('\n')}\n`).join('\n');
}
