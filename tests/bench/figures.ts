/** Figures beside the targets they are held against. */
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';

export interface Target {
  readonly most?: number;
  readonly least?: number;
}

export interface Figure extends Target {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
}

/** Prints figures as they are found, and keeps them for a file. */
export class Figures {
  readonly found: Figure[] = [];
  readonly #print: (line: string) => void;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  add(name: string, value: number, unit: string, target: Target = {}): void {
    this.found.push({ name, value, unit, ...target });
    const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : 2;
    const row = `${name.padEnd(64)} ${value.toFixed(digits).padStart(10)} ${unit.padEnd(9)}`;
    this.#print(`${row} ${verdict(value, target)}`.trimEnd());
  }
}

/** What benchmarks found, by their names, with the machine it was found on, as JSON. */
export function writeFigures(path: string, benchmarks: ReadonlyMap<string, Figures>): void {
  const processor = cpus()[0]?.model ?? 'unknown';
  const machine = { processor, cores: availableParallelism(), node: process.version };
  const found = [...benchmarks].map(([benchmark, { found: figures }]) => ({ benchmark, figures }));
  writeFileSync(path, `${JSON.stringify({ machine, benchmarks: found }, null, 2)}\n`);
}

function verdict(value: number, { most, least }: Target): string {
  const bound = most ?? least;
  if (bound === undefined) return '';
  const holds = most === undefined ? value >= bound : value <= bound;
  return `${most === undefined ? '≥' : '≤'} ${bound}  ${holds ? 'holds' : 'MISSED'}`;
}
