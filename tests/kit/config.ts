/** What the environment decides for the tests. */
export const testConfig = {
  /** Continuous integration: a test that lacks a program of the operating system fails instead of being skipped. */
  strict: process.env['SALLYPORT_TESTS_STRICT'] === '1',
  /** Of the programs under test; `silent` unless someone is looking for something. */
  logLevel: process.env['TEST_LOG_LEVEL'] ?? 'silent',
  /** Of tests that do things at random; each prints the one it used. */
  seed: process.env['SALLYPORT_TESTS_SEED'],
  /** What nodes under test speak HTTP with: `wire`, or `libraries`. */
  httpEngine: process.env['SALLYPORT_TESTS_HTTP_ENGINE'] === 'libraries' ? 'libraries' : 'wire',
  path: process.env['PATH'] ?? '',
} as const;
