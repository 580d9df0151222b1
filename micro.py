import sys,time; sys.path.insert(0,'benchmarks')
import tensorflow as tf, keras, models, kwrap, numpy as np
from measure import interleaved, ratio
from kwrap_probe import Probe, NaNGuard
for jit in (False, True):
    hooks={"bare":None,"all":Probe(),"never":Probe(every=10**9),"guard":NaNGuard()}
    runs={}
    for k,h in hooks.items():
        m=models.cnn()
        if h is not None: kwrap.wrap_model(m,[h])
        runs[k]=models.stepper(m,128,20,jit_compile=jit)
    t=interleaved(runs,41)
    print("jit",jit,"bare ms", 1e3*np.median(t["bare"])/20, 1e3*np.min(t["bare"])/20)
    for k in runs: print(k, ratio(t,k,"bare"), "min ratio %.3f  low quartile %.3f"%(min(t[k])/min(t["bare"]), np.quantile(t[k],.2)/np.quantile(t["bare"],.2)),flush=True)
