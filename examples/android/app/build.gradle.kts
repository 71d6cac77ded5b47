plugins {
    id("com.android.application") version "8.7.0"
    id("org.jetbrains.kotlin.android") version "2.0.21"
}

android {
    namespace = "org.u2slim"
    compileSdk = 35
    defaultConfig {
        applicationId = "org.u2slim.cutter"
        minSdk = 28
        targetSdk = 35
    }
    androidResources { noCompress += "tflite" } // it is mapped into memory as it is
    kotlinOptions { jvmTarget = "17" }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation("androidx.activity:activity-ktx:1.9.3")
    implementation("com.google.ai.edge.litert:litert:1.0.1")
}
