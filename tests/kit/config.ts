/** The pairs of edges that a node may speak HTTP with. */
export const httpEngines = ['wire', 'libraries'] as const;
export type HttpEngine = (typeof httpEngines)[number];

function httpEngineOf(text: string): HttpEngine {
  const engine = httpEngines.find((one) => one === text);
  if (engine === undefined) throw new Error(`SALLYPORT_TESTS_HTTP_ENGINE must be one of ${httpEngines.join(', ')}`);
  return engine;
}

/** What the environment decides for the tests. */
export const testConfig = {
  /** Continuous integration: a test that lacks a program of the operating system fails instead of being skipped. */
  strict: process.env['SALLYPORT_TESTS_STRICT'] === '1',
  /** Of the programs under test; `silent` unless someone is looking for something. */
  logLevel: process.env['TEST_LOG_LEVEL'] ?? 'silent',
  /** Of tests that do things at random; each prints the one it used. */
  seed: process.env['SALLYPORT_TESTS_SEED'],
  /** What nodes under test speak HTTP with, where a test does not say. */
  httpEngine: httpEngineOf(process.env['SALLYPORT_TESTS_HTTP_ENGINE'] ?? 'wire'),
  /** Every cell of the conformance tests, not the short form. */
  isConformanceWhole: process.env['SALLYPORT_TESTS_CONFORMANCE'] === 'whole',
  path: process.env['PATH'] ?? '',
} as const;
