/** Physical units by dimension: `base value = value * factor + offset`. */
interface Unit {
  readonly dimension: 'length' | 'mass' | 'temperature';
  readonly factor: number;
  readonly offset: number;
}

const unit = (dimension: Unit['dimension'], factor: number, offset = 0): Unit => ({ dimension, factor, offset });

export const units = {
  m: unit('length', 1),
  cm: unit('length', 0.01),
  km: unit('length', 1_000),
  in: unit('length', 0.0254),
  ft: unit('length', 0.3048),
  mi: unit('length', 1_609.344),
  kg: unit('mass', 1),
  g: unit('mass', 0.001),
  lb: unit('mass', 0.453_592_37),
  oz: unit('mass', 0.028_349_523_125),
  kelvin: unit('temperature', 1),
  celsius: unit('temperature', 1, 273.15),
  fahrenheit: unit('temperature', 5 / 9, 459.67 * (5 / 9)),
} as const satisfies Record<string, Unit>;

export type UnitName = keyof typeof units;

export const unitNames = Object.keys(units) as [UnitName, ...UnitName[]];

/** The value in the other unit, rounded to 12 significant digits, or undefined where the dimensions differ. */
export function convertUnits(value: number, from: UnitName, to: UnitName): number | undefined {
  const source: Unit = units[from];
  const target: Unit = units[to];
  if (source.dimension !== target.dimension) return undefined;
  const base = value * source.factor + source.offset;
  return Number(((base - target.offset) / target.factor).toPrecision(12));
}
